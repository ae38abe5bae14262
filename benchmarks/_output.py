"""Text of tables, files of figures, and pictures."""

import json


def format_interval(figure, sign=""):
    """Format a value with its interval; an empty text for None."""
    if figure is None:
        return ""
    value, low, high = (f"{figure[k]:{sign}.3f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def print_pairs(figures):
    """Print the names and values of a dict in one line."""
    print(", ".join(f"{name} {str(value)[:60]}" for name, value in figures.items()))


def write_json(path, figures):
    """Write figures to a file, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")


def print_data(shape, *more):
    """Print the name and the sizes of a data set, and more figures."""
    sizes = (
        "{n_prompts} prompts in {n_groups} groups, {n_candidates} candidates each, "
        "{n_features} features".format(**shape)
    )
    print(f"\n{shape['name']}: {', '.join([sizes, *more])}")


def save_figure(figure, folder, name):
    """Write a picture to a folder, close it and return its path."""
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def make_axes(n_rows, n_columns, size):
    """Make a figure that needs no display, and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(n_rows, n_columns, figsize=size, constrained_layout=True)
