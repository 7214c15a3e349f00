"""The store: BIDS names, codecs, sidecars and staging, on a local disk or at a URL. It imports no Dagster."""
