"""What every part of the project needs of the operating system. Imports nothing of the rest."""
