"""One module per kind of object that the coordinator keeps."""
