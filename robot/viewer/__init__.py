"""Videos, contact sheets and reports of what happened."""
