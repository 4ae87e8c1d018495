package katodouble

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Database is main-db, as the Cloud Controller of a cluster keeps it: where `kato data export` takes orgs, spaces, users, apps and services from and where
// `kato data import` puts them. It is not the API: what the API refuses in maintenance mode can be written here [I].
type Database interface {
	// Dump returns all that is there.
	Dump(ctx context.Context) (Content, error)
	// Load adds content. What is there under the same names is replaced in place, all else stays.
	Load(ctx context.Context, content Content) error
	// Redeploy stages an app anew and starts it; it returns when the staging has ended. An error says why the app does not run: it failed, the API refuses to start
	// it in maintenance mode, or it is not there.
	Redeploy(ctx context.Context, r Redeployment) error
}

// BuildpackLoser is a Database that loses the buildpacks of its own when a node with the role controller is upgraded (kato.md §5).
type BuildpackLoser interface{ LoseBuildpacks() }

// ContentEntry is the entry of an export's archive that holds the Content, as JSON. Where in an archive kato keeps it is not known (kato.md §9).
const ContentEntry = "helion-export/main-db/cloud_controller.json"

// Content of a Cloud Controller. What an org or a space is needed by is there without being listed.
type Content struct {
	Orgs     []string       `json:"orgs,omitempty"`
	Spaces   []SpaceEntry   `json:"spaces,omitempty"`
	Users    []UserEntry    `json:"users,omitempty"`
	Apps     []AppEntry     `json:"apps,omitempty"`
	Services []ServiceEntry `json:"services,omitempty"`
}

// SpaceEntry is a space of an org.
type SpaceEntry struct {
	Org  string `json:"org"`
	Name string `json:"name"`
}

// UserEntry is an account.
type UserEntry struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Admin    bool   `json:"admin,omitempty"`
}

// AppEntry is an app.
type AppEntry struct {
	// GUID that it gets; "" = the one that an app of this name has, or a new one.
	GUID  string `json:"guid,omitempty"`
	Org   string `json:"org"`
	Space string `json:"space"`
	Name  string `json:"name"`
	// State is STARTED or STOPPED, PackageState STAGED, PENDING or FAILED.
	State        string `json:"state"`
	PackageState string `json:"package_state"`
	Instances    int    `json:"instances"`
	// Memory and Disk of an instance, in MiB; 0 = 256 and 2048.
	Memory int `json:"memory,omitempty"`
	Disk   int `json:"disk,omitempty"`
	// Buildpack that is asked for, and Detected the one that was found.
	Buildpack   string         `json:"buildpack,omitempty"`
	Detected    string         `json:"detected,omitempty"`
	Environment map[string]any `json:"environment,omitempty"`
}

// Path is ORG/SPACE/APP.
func (a AppEntry) Path() string { return a.Org + "/" + a.Space + "/" + a.Name }

// ServiceEntry is a service instance.
type ServiceEntry struct {
	GUID  string `json:"guid,omitempty"`
	Org   string `json:"org"`
	Space string `json:"space"`
	Name  string `json:"name"`
	// Service and Plan are the offering's names, "" of one that a user provided.
	Service string `json:"service,omitempty"`
	Plan    string `json:"plan,omitempty"`
}

// Path is ORG/SPACE/SERVICE.
func (s ServiceEntry) Path() string { return s.Org + "/" + s.Space + "/" + s.Name }

// Redeployment of one app.
type Redeployment struct {
	Org   string `json:"org"`
	Space string `json:"space"`
	App   string `json:"app"`
	// Seconds that the staging takes; 0 = as long as the controller's stagings do.
	Seconds float64 `json:"seconds,omitempty"`
	// Fails: the staging fails. The app is left STARTED with the package state FAILED; with Stops it is left STOPPED with the package it had.
	Fails bool `json:"fails,omitempty"`
	Stops bool `json:"stops,omitempty"`
}

// DatabaseHandler serves a Database to the katos of real nodes: GET and POST /content, POST /redeployments, which is answered with 409 and the reason when the
// app does not run, and DELETE /buildpacks, which a BuildpackLoser loses.
func DatabaseHandler(db Database) http.Handler {
	mux := http.NewServeMux()
	read := func(w http.ResponseWriter, r *http.Request, into any) bool {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxContent))
		if err == nil {
			err = decode(b, into)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return err == nil
	}
	mux.HandleFunc("GET /content", func(w http.ResponseWriter, r *http.Request) {
		content, err := db.Dump(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(content) // a reader that is gone needs nothing
	})
	mux.HandleFunc("POST /content", func(w http.ResponseWriter, r *http.Request) {
		var content Content
		if !read(w, r, &content) {
			return
		}
		if err := db.Load(r.Context(), content); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /redeployments", func(w http.ResponseWriter, r *http.Request) {
		var want Redeployment
		if !read(w, r, &want) {
			return
		}
		if err := db.Redeploy(r.Context(), want); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	mux.HandleFunc("DELETE /buildpacks", func(http.ResponseWriter, *http.Request) {
		if loser, does := db.(BuildpackLoser); does {
			loser.LoseBuildpacks()
		}
	})
	return mux
}

// maxContent bounds a Content in bytes.
const maxContent = 64 << 20

// databaseAt is a Database behind a DatabaseHandler.
type databaseAt struct {
	url    string
	client *http.Client
}

// Dump asks for the content.
func (d databaseAt) Dump(ctx context.Context) (content Content, err error) {
	return content, d.ask(ctx, http.MethodGet, "/content", nil, &content)
}

// Load sends content.
func (d databaseAt) Load(ctx context.Context, content Content) error {
	return d.ask(ctx, http.MethodPost, "/content", content, nil)
}

// Redeploy waits for the answer.
func (d databaseAt) Redeploy(ctx context.Context, r Redeployment) error {
	return d.ask(ctx, http.MethodPost, "/redeployments", r, nil)
}

func (d databaseAt) ask(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(d.url, "/")+path, &body)
	if err != nil {
		return err
	}
	resp, err := d.client.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("could not connect to PostgreSQL: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxContent))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return errors.New(strings.TrimSpace(string(b)))
	case out == nil:
		return nil
	}
	return json.Unmarshal(b, out)
}

// SetDatabase joins the cluster's main-db; nil = there is none, and exports and imports have no apps.
func (c *Cluster) SetDatabase(db Database) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.main = db
}

func (c *Cluster) database() Database {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.main
}

// content is what an export with these options holds of the Cloud Controller, nil for nothing.
func (k *call) content(o exportOptions, hasRole func(string) bool) ([]byte, error) {
	db := k.c.database()
	for _, p := range exportParts() {
		if p.name != "main-db" || db == nil || !o.selects(p, hasRole) {
			continue
		}
		content, err := db.Dump(k.ctx)
		if err != nil {
			return nil, err
		}
		if o.usersOnly {
			content = Content{Orgs: content.Orgs, Users: content.Users}
		}
		return json.MarshalIndent(content, "", "  ")
	}
	return nil, nil
}

// noDatabase is of a cluster whose main-db is empty.
type noDatabase struct{}

// Dump returns nothing.
func (noDatabase) Dump(context.Context) (Content, error) { return Content{}, nil }

// Load does nothing.
func (noDatabase) Load(context.Context, Content) error { return nil }

// Redeploy does nothing.
func (noDatabase) Redeploy(context.Context, Redeployment) error { return nil }
