package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/persistence"
	"go.temporal.io/server/common/persistence/serialization"
	persistencesql "go.temporal.io/server/common/persistence/sql"
	"go.temporal.io/server/common/persistence/sql/sqlplugin"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/common/resolver"
	"go.temporal.io/server/common/searchattribute/sadefs"
	"go.temporal.io/server/schema/sqlite"
	"google.golang.org/protobuf/types/known/durationpb"
)

// databaseConfig describes Temporal's SQLite database: in memory when file is empty.
//
// A file uses a write-ahead log with synchronous=normal: a committed transaction is in the operating system's hands, so
// that a SIGKILL of this process loses nothing; a power failure may lose the last transactions but not the file.
func databaseConfig(file string, pragmas map[string]string) *config.SQL {
	cfg := &config.SQL{PluginName: sqliteplugin.PluginName}
	if file == "" {
		cfg.DatabaseName = fmt.Sprintf("devstack-%d-%d", os.Getpid(), rand.Int64())
		cfg.ConnectAttributes = map[string]string{"mode": "memory", "cache": "shared"}
	} else {
		cfg.DatabaseName = file
		cfg.ConnectAttributes = map[string]string{
			"mode":         "rwc",
			"journal_mode": "wal",
			"synchronous":  "normal",
			"busy_timeout": "10000",
			// Page cache of 64 MiB (a negative figure is KiB).
			"cache_size": "-65536",
		}
	}
	maps.Copy(cfg.ConnectAttributes, pragmas)
	return cfg
}

// prepareDatabaseFile creates Temporal's tables in a new or empty file, or checks that an existing file was made by
// the same server version: there is no schema migration. The version is recorded inside the file, in the same
// transaction as the tables, so that a process killed in between leaves an empty database.
func prepareDatabaseFile(ctx context.Context, file string) (err error) {
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		return usagef("the folder of the database file does not exist: %w", err)
	}
	db, err := sql.Open("sqlite", "file:"+file+"?mode=rwc&_txlock=immediate&_pragma=busy_timeout=10000")
	if err != nil {
		return fmt.Errorf("open database file %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return usagef("%s cannot be opened as a SQLite database (%w); delete it or name another one", file, err)
	}
	defer func() { _ = tx.Rollback() }()

	var tables, markers int
	const count = `SELECT count(*), count(*) FILTER (WHERE name = 'devstack') FROM sqlite_master WHERE type = 'table'`
	if err := tx.QueryRowContext(ctx, count).Scan(&tables, &markers); err != nil {
		return usagef("%s cannot be read as a SQLite database (%w); delete it or name another one", file, err)
	}
	if tables > 0 {
		version := "another program"
		if markers == 1 {
			if err := tx.QueryRowContext(ctx, `SELECT server_version FROM devstack`).Scan(&version); err != nil {
				return fmt.Errorf("read the server version of %s: %w", file, err)
			}
			if version == serverVersion {
				return nil
			}
			version = "Temporal server " + version
		}
		return usagef("%s was made by %s and this is Temporal server %s; there is no migration, delete the file (with its -wal and -shm) and start again",
			file, version, serverVersion)
	}

	if err := sqlite.SetupSchemaOnDB(transactionDB{tx: tx, ctx: ctx}); err != nil {
		return fmt.Errorf("create Temporal's tables in %s: %w", file, err)
	}
	for _, statement := range []struct {
		query string
		args  []any
	}{
		{`CREATE TABLE devstack (server_version TEXT NOT NULL, created_at TEXT NOT NULL)`, nil},
		{`INSERT INTO devstack VALUES (?, ?)`, []any{serverVersion, time.Now().UTC().Format(time.RFC3339)}},
	} {
		if _, err := tx.ExecContext(ctx, statement.query, statement.args...); err != nil {
			return fmt.Errorf("record the server version in %s: %w", file, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("create Temporal's tables in %s: %w", file, err)
	}
	return nil
}

// transactionDB lets sqlite.SetupSchemaOnDB, which only calls Exec, work inside one transaction.
type transactionDB struct {
	sqlplugin.AdminDB
	tx  *sql.Tx
	ctx context.Context
}

func (t transactionDB) Exec(statement string, args ...any) error {
	_, err := t.tx.ExecContext(t.ctx, statement, args...)
	return err
}

// registerNamespaces makes the namespaces exist with the retention and at least the search attributes. It works on the
// database before the server starts, so that no client ever sees a namespace without them; it is idempotent.
func registerNamespaces(ctx context.Context, cfg *config.SQL, names []string, attributes map[string]enumspb.IndexedValueType, retention time.Duration) error {
	db, err := persistencesql.NewSQLDB(sqlplugin.DbKindMain, cfg, resolver.NewNoopResolver(), log.NewNoopLogger(), metrics.NoopMetricsHandler)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer func() { _ = db.Close() }()
	for _, name := range names {
		if err := registerNamespace(ctx, db, name, attributes, retention); err != nil {
			return fmt.Errorf("namespace %q: %w", name, err)
		}
	}
	return nil
}

func registerNamespace(ctx context.Context, db sqlplugin.DB, name string, attributes map[string]enumspb.IndexedValueType, retention time.Duration) error {
	serializer := serialization.NewSerializer()
	rows, err := db.SelectFromNamespace(ctx, sqlplugin.NamespaceFilter{Name: &name})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read it: %w", err)
	}

	if len(rows) == 0 {
		namespace, err := sqlite.NewNamespaceConfig(clusterName, name, false, nil)
		if err != nil {
			return fmt.Errorf("describe it: %w", err)
		}
		detail := namespace.Detail
		detail.Config.Retention = durationpb.New(retention)
		if detail.Config.CustomSearchAttributeAliases, err = assignSearchAttributes(nil, attributes); err != nil {
			return err
		}
		blob, err := serializer.NamespaceDetailToBlob(detail)
		if err != nil {
			return fmt.Errorf("encode it: %w", err)
		}
		if _, err := db.InsertIntoNamespace(ctx, &sqlplugin.NamespaceRow{
			ID: primitives.MustParseUUID(detail.Info.Id), Name: name,
			Data: blob.Data, DataEncoding: blob.EncodingType.String(),
		}); err != nil {
			return fmt.Errorf("create it: %w", err)
		}
		return nil
	}

	row := rows[0]
	detail, err := serializer.NamespaceDetailFromBlob(persistence.NewDataBlob(row.Data, row.DataEncoding))
	if err != nil {
		return fmt.Errorf("decode it: %w", err)
	}
	detail.Config.Retention = durationpb.New(retention)
	if detail.Config.CustomSearchAttributeAliases, err = assignSearchAttributes(detail.Config.CustomSearchAttributeAliases, attributes); err != nil {
		return err
	}
	blob, err := serializer.NamespaceDetailToBlob(detail)
	if err != nil {
		return fmt.Errorf("encode it: %w", err)
	}
	row.Data, row.DataEncoding = blob.Data, blob.EncodingType.String()
	if _, err := db.UpdateNamespace(ctx, &row); err != nil {
		return fmt.Errorf("update it: %w", err)
	}
	return nil
}

// assignSearchAttributes returns the map from column (Keyword01, Bool02...) to search attribute name: all that had has,
// plus the wanted attributes that it lacks. A SQL database has a fixed number of columns per type.
func assignSearchAttributes(had map[string]string, wanted map[string]enumspb.IndexedValueType) (map[string]string, error) {
	columns := sadefs.GetDBIndexSearchAttributes(nil).CustomSearchAttributes
	columnOf := map[string]string{}
	for column, name := range had {
		columnOf[name] = column
	}
	assigned := map[string]string{}
	maps.Copy(assigned, had)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		valueType := wanted[name]
		if column, ok := columnOf[name]; ok {
			if columns[column] != valueType {
				return nil, usagef("search attribute %s is registered as %s, not %s; delete the database file or use another name", name, columns[column], valueType)
			}
			continue
		}
		var free string
		var limit int
		for _, column := range slices.Sorted(maps.Keys(columns)) {
			if columns[column] != valueType {
				continue
			}
			limit++
			if _, taken := assigned[column]; !taken && free == "" {
				free = column
			}
		}
		if free == "" {
			return nil, usagef("search attribute %s: a namespace can have only %d of type %s", name, limit, strings.ToLower(valueType.String()))
		}
		assigned[free] = name
	}
	return assigned, nil
}
