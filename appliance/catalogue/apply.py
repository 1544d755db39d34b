"""`apply(tx, cache, command)`: the one table from commands to what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from appliance.catalogue import buckets, commands, files, folding, objects, sharing, uploads
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.errors import Code, StoreError


def _reap(tx: Rows, cache: DirectoryCache, command: commands.Reap) -> None:
    objects.reap(tx, cache, command.node, command.now_ns)


def _refuse(tx: Rows, cache: DirectoryCache, command: commands.Refused) -> None:
    raise StoreError(
        Code.NO_SPACE, "the pool is full, but for a copy of its catalogue: delete something or add a device"
    )


def _plain(function: Callable[[Rows, Any], Any]) -> Callable[[Rows, DirectoryCache, Any], Any]:
    return lambda tx, _cache, command: function(tx, command)


_TABLE: Final[dict[type[commands.Command], Callable[[Rows, DirectoryCache, Any], Any]]] = {
    commands.Refused: _refuse,
    commands.PutObject: objects.put_object,
    commands.CopyObject: objects.copy_object,
    commands.DeleteObject: objects.delete_object,
    commands.RenameObject: objects.rename_object,
    commands.WriteFile: files.write_file,
    commands.CopyRange: sharing.copy_range,
    commands.CreateUpload: _plain(uploads.create_upload),
    commands.PutPart: _plain(uploads.put_part),
    commands.CopyPart: _plain(uploads.copy_part),
    commands.CompleteUpload: uploads.complete_upload,
    commands.AbortUpload: _plain(uploads.abort_upload),
    commands.MakeDirectory: files.make_directory,
    commands.RemoveDirectory: files.remove_directory,
    commands.MakeSpecial: _plain(files.make_special),
    commands.MakeLink: _plain(files.make_link),
    commands.Unlink: files.unlink,
    commands.Rename: files.rename,
    commands.SetAttributes: _plain(files.set_attributes),
    commands.SetTimes: _plain(files.set_times),
    commands.FoldMap: _plain(folding.fold_map),
    commands.Reap: _reap,
    commands.CreateBucket: _plain(buckets.create_bucket),
    commands.DeleteBucket: buckets.delete_bucket,
    commands.PutAccessKey: _plain(buckets.put_access_key),
    commands.RemoveAccessKey: _plain(buckets.remove_access_key),
    commands.ChangeAttributes: _plain(objects.change_attributes),
    commands.SetBucketSetting: _plain(buckets.set_setting),
    commands.KeepTime: _plain(buckets.keep_time),
    commands.PutUser: _plain(buckets.put_user),
    commands.RemoveUser: _plain(buckets.remove_user),
    commands.PutDataKeys: _plain(buckets.put_data_keys),
}


def apply(tx: Rows, cache: DirectoryCache, command: commands.Command) -> Any:
    """The command's result.  Raises its StoreError, always before it changed anything."""
    return _TABLE[type(command)](tx, cache, command)
