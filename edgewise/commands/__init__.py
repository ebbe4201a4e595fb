"""The commands of `edgewise`, one file each: thin layers over `edgewise.workflow`."""
