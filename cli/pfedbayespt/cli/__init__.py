"""The command line `pfedbayespt`: it composes the coordinator, the SDK and the demo.

Every command imports what it needs when it runs, so that `--help` is quick and a coordinator never loads torch.
"""
