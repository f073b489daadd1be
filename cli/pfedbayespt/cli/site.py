"""`pfedbayespt site`: an organisation's part in a federation, beside its images."""

import typer

from pfedbayespt.cli.site_membership import enrol, leave, rotate_key, status
from pfedbayespt.cli.site_predictions import adapt, evaluate, predict, serve
from pfedbayespt.cli.site_training import check, run

app = typer.Typer(
    help="Join a federation and take part in it with your own images.",
    no_args_is_help=True,
    # Every option is a variable too: PFEDBAYESPT_SITE_RUN_TRAIN. A unit's EnvironmentFile is a configuration file.
    context_settings={"auto_envvar_prefix": "PFEDBAYESPT_SITE"},
)

# In the order of a site's life, which is the order of `--help`.
for command in (enrol, check, run, status, predict, serve, evaluate, adapt, rotate_key, leave):
    app.command()(command)
