"""What runs the steps of a model: arrays on the CPU, or states that stay on a device."""
