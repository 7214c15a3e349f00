"""The parts of the methods text: each says what one group of steps did, from what the steps recorded."""
