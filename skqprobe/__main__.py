"""The command `skqprobe`, as ``python -m skqprobe``."""

from skqprobe.serve._command import main

if __name__ == "__main__":
    main()
