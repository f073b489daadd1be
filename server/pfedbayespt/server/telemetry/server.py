"""Where spans enter the server: requests, SQL statements, the blob store and the predictor."""

from fastapi import FastAPI

from pfedbayespt.server.blobs import BlobStore
from pfedbayespt.server.database import Database
from pfedbayespt.server.predictions.predictor import Predictor
from pfedbayespt.server.telemetry.parts import TracedBlobStore, TracedPredictor
from pfedbayespt.server.telemetry.requests import RequestSpans
from pfedbayespt.server.telemetry.statements import trace_statements
from pfedbayespt.server.telemetry.traces import Traces


class ServerTraces(Traces):
    """The traces of one server process."""

    def of_statements(self, database: Database) -> None:
        """Trace the database's statements from now on."""
        trace_statements(database.engine, self)

    def of_blobs(self, store: BlobStore) -> BlobStore:
        """Return the store, traced."""
        return TracedBlobStore(store, self)

    def of_predictions(self, predictor: Predictor) -> Predictor:
        """Return the predictor, traced."""
        return TracedPredictor(predictor, self)

    def of_requests(self, app: FastAPI) -> None:
        """Trace the requests to `app`; to be called after all other middleware was added."""
        app.add_middleware(RequestSpans, traces=self)
