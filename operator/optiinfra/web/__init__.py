"""What the operator serves over HTTP: health, metrics, the API, the external metrics API. It decides nothing."""
