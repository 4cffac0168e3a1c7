"""Forecasts from long contexts of any regular series: `emberwatch study forecast`."""
