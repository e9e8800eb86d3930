"""One module per annotation format: a file and photos in, samples out."""
