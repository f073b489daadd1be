"""An auditor's tools: export a federation's records, check them offline, compute a version again."""
