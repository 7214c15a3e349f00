"""Quality control of one scan and its derivatives: metrics, checks and outliers. Values in, numbers out."""
