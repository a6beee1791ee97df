"""The four published MNIST files, as package data; see ATTRIBUTION.md."""
