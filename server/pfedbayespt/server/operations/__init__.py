"""What an operator does to a coordinator: back up, restore, verify, collect garbage.

Rules:
1. A backup is taken while the coordinator runs. The database is copied first, in one consistent snapshot, then
   every tensor file that a row needs: a file is there before its row is, so none that it needs is missing.
2. A backup becomes valid by the replacement of its manifest, at the very end; until then the one before it is
   whole. Files that are there already are not copied again.
3. Whatever is copied is compared with its digest, in both directions.
4. A restore goes into an empty place, unless it is forced, and puts the database last: a coordinator never finds
   rows whose files are not there yet.
"""

from pfedbayespt.server.operations.backups import backup
from pfedbayespt.server.operations.checks import verify, verify_backup
from pfedbayespt.server.operations.errors import OperationError
from pfedbayespt.server.operations.garbage import collect_garbage
from pfedbayespt.server.operations.restoring import restore

__all__ = ["OperationError", "backup", "collect_garbage", "restore", "verify", "verify_backup"]
