"""OCI layouts and archives of other tools, read and written."""
