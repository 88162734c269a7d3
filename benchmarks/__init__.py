"""How fast cloudmanager is, as ratios against plain qemu-nbd in the same run. `make bench` prints the table."""
