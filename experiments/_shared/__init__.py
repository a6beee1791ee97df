"""What the experiments share: flags, studies, progress."""
