"""The commands for people at a shell: they are clients of a service, here or elsewhere."""
