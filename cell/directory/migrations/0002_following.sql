-- Several processes may share the tables. A process that keeps answers asks what has changed since it last did: changed and
-- entry are the cell's counter at the change.

-- +goose Up
ALTER TABLE workspaces ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX workspaces_by_change ON workspaces (changed);
ALTER TABLE user_changes ADD COLUMN entry BIGINT NOT NULL DEFAULT 0;
CREATE INDEX user_changes_by_entry ON user_changes (entry);

CREATE TABLE leases (
  name   TEXT   NOT NULL PRIMARY KEY,
  holder TEXT   NOT NULL,
  until  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE leases;
DROP INDEX user_changes_by_entry;
ALTER TABLE user_changes DROP COLUMN entry;
DROP INDEX workspaces_by_change;
ALTER TABLE workspaces DROP COLUMN changed;
