"""What all derivatives share: building the Dagster asset, executing a step, and recording what it did."""
