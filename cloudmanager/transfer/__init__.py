"""What both ends of a transfer of disks' bytes share, the service's and the client's. Imports nothing of the rest."""
