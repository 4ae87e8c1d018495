package cloudcontroller

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// Joined is the controller of a cluster: filled, served over TLS, with the files that an inventory names.
type Joined struct {
	*Controller
	server   *Server
	database *http.Server // nil unless ServeDatabase was called
	dir      string
}

// Join starts a controller for a cluster, with the content of [Controller.FillAsDemo], and writes the authority of its certificate and the admin's password to
// controller-ca.pem and controller-password (mode 0600) of the folder dir. Maintenance mode and nodes are the cluster's, through o. address is as Start takes it.
// Close ends it; the files stay.
func Join(dir, address string, o Options) (*Joined, error) {
	j := &Joined{Controller: New(o), dir: dir}
	j.FillAsDemo()
	var err error
	if j.server, err = j.Start(address, true, j.options.Endpoint); err != nil {
		return nil, err
	}
	for file, content := range map[string][]byte{j.caFile(): j.server.CA, j.passwordFile(): []byte(j.Password() + "\n")} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			j.server.Close()
			return nil, fmt.Errorf("cloud controller double: %w", err)
		}
	}
	return j, nil
}

// URL of the API.
func (j *Joined) URL() string { return j.server.URL }

func (j *Joined) caFile() string       { return filepath.Join(j.dir, "controller-ca.pem") }
func (j *Joined) passwordFile() string { return filepath.Join(j.dir, "controller-password") }

// ServeDatabase serves the controller's content to the katos of real nodes ([katodouble.DatabaseHandler]) at an address as Start takes it, without a login, and
// returns its URL for [katodouble.Site]. Close ends it.
func (j *Joined) ServeDatabase(address string) (url string, err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("cloud controller double: %w", err)
	}
	j.database = &http.Server{Handler: katodouble.DatabaseHandler(j.Controller), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = j.database.Serve(listener) }() // it ends with Close
	return "http://" + listener.Addr().String(), nil
}

// Close ends the server and every connection to it.
func (j *Joined) Close() {
	if j.database != nil {
		_ = j.database.Close()
	}
	j.server.Close()
}

// Section is what an inventory's cluster says of its controller.
type Section struct {
	URL      string `yaml:"url"`
	User     string `yaml:"user"`
	Password struct {
		File string `yaml:"file"`
	} `yaml:"password,flow"`
	CAFile string `yaml:"ca_file"`
}

// Section of the inventory, with absolute paths if the folder's is one.
func (j *Joined) Section() *Section {
	s := &Section{URL: j.URL(), User: j.User(), CAFile: j.caFile()}
	s.Password.File = j.passwordFile()
	return s
}

// FillAsDemo adds two organizations with three spaces, seven apps, two of them stopped, and five services, one of them provided by a user. The started apps have
// eight instances, as many as the two DEAs of the demo run.
func (c *Controller) FillAsDemo() {
	const shop, intranet = "shop", "intranet"
	c.AddApp(shop, "production", App{Name: "storefront", Instances: 3, Detected: "Ruby/Rack"})
	c.AddApp(shop, "production", App{Name: "orders", Instances: 2, Detected: "Node.js"})
	c.AddApp(shop, "production", App{Name: "mailer", Detected: "Python"})
	c.AddApp(shop, "staging", App{Name: "storefront", Detected: "Ruby/Rack"})
	c.AddApp(shop, "staging", App{Name: "orders", State: "STOPPED", Detected: "Node.js"})
	c.AddApp(intranet, "production", App{Name: "wiki", Buildpack: "https://github.com/heroku/heroku-buildpack-php.git"})
	c.AddApp(intranet, "production", App{Name: "survey", State: "STOPPED", Detected: "Java"})
	c.AddService(shop, "production", "orders-db", "mysql", "free")
	c.AddService(shop, "production", "sessions", "redis", "free")
	c.AddService(shop, "staging", "orders-db", "mysql", "free")
	c.AddService(intranet, "production", "wiki-files", "filesystem", "free")
	c.AddUserProvidedService(intranet, "production", "directory")
}
