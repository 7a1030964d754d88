"""`python -m charlm_client` is the `charlm` command."""

from charlm_client.command_line import main

if __name__ == "__main__":
    main()
