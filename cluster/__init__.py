"""Where models live: torch, transformers and Ray. Importing the package itself stays light."""
