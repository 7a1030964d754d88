"""What every benchmark needs: the server measured, arrivals, tables, the machine."""
