"""What surrounds the alert machines: the record that operators see, why it is so, and what time alone changes."""
