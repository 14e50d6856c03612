"""Entry point of `python -m streamtrain`."""

from streamtrain.cli import start

if __name__ == "__main__":
    start()
