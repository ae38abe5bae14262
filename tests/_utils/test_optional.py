"""import_optional, with packages that are missing or broken."""

import sys

import pytest

from skqprobe._utils.optional import import_optional


def test_it_returns_the_module():
    module = import_optional("json.decoder", needed_by="A test")
    assert module is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_a_missing_package(module):
    with pytest.raises(ImportError) as raised:
        import_optional(module, needed_by="Embedder", extra="models")
    assert str(raised.value) == (
        'Embedder needs no_such_package: pip install "skqprobe[models]".'
    )
    assert raised.value.name == "no_such_package"


def test_a_blocked_package_without_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(ImportError, match=r"^A test needs json: pip install json\.$"):
        import_optional("json", needed_by="A test")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such"),
        ("raise OSError('libbroken.so: cannot open')", "OSError: libbroken.so: cannot"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_installed_package_that_fails_to_load(monkeypatch, tmp_path, code, message):
    (tmp_path / "broken_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=message) as raised:
        import_optional("broken_package", needed_by="A test", extra="models")
    assert str(raised.value).startswith(
        'A test needs broken_package: pip install "skqprobe[models]". '
        "broken_package is installed, but importing broken_package fails with "
    )
    assert raised.value.__cause__ is not None
