"""The command `ebm`."""
