"""The testbed: disks, hosts, links, servers, readers. Every part is a context manager that cleans up."""
