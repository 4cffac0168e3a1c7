"""placeholder until the fleet simulator is in"""
def demo() -> None:
    """Demo."""
