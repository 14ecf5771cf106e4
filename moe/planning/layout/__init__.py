"""How the tensors of a share lie in flat buckets, and which replica owns which elements."""
