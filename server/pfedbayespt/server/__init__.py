"""The coordinator: federations, rounds, updates, model versions, predictions."""

from pfedbayespt.server.app import create_app
from pfedbayespt.server.serving import run, upgrade_database
from pfedbayespt.server.settings import ServerRole, Settings

__all__ = ["ServerRole", "Settings", "create_app", "run", "upgrade_database"]
