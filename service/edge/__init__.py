"""A box without a network: samples are kept on its disk, within bounds, and sent on in order when there is one (docs/edge.md)."""
