"""`python -m segue_client` is the `segue` command."""

from segue_client.commands.main import main

if __name__ == "__main__":
    main()
