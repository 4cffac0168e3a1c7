"""HTTP, one module per kind of resource."""
