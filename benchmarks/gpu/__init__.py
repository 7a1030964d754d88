"""The parts of the GPU check: see gpu_check.py."""
