"""`python -m streamtrain`."""

from streamtrain.cli.main import main

if __name__ == "__main__":
    main()
