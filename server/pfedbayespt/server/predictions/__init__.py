"""Predictions: how a request is read and admitted, and which version answers it. What answers is a `Predictor`."""
