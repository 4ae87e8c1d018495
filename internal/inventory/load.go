package inventory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
)

// Load reads and checks the inventory file at path; its form only, see [File.CheckFiles] for what it refers to. Every problem is
// reported at once as [Problems]. The result has its defaults filled in.
func Load(path string) (*File, error) {
	whole := func(format string, args ...any) error {
		return Problems{{File: path, Message: fmt.Sprintf(format, args...)}}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, whole("no such file: name the inventory file")
	case err != nil:
		return nil, whole("cannot be read: %v", reason(err))
	case info.IsDir():
		return nil, whole("is a directory: name the inventory file in it")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, whole("cannot be read: %v", reason(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1)) // one byte more than Parse takes
	if err != nil {
		return nil, whole("cannot be read: %v", reason(err))
	}
	file, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	if abs, err := filepath.Abs(path); err == nil {
		file.folder = filepath.Dir(abs) // so that paths stay right when the process changes its folder
	}
	return file, nil
}

// Parse checks data as Load does; name is what problems call it, and relative paths in it are relative to name's folder.
func Parse(name string, data []byte) (*File, error) {
	root, p := parseTree(name, data)
	if p != nil {
		return nil, Problems{*p}
	}
	d := decoder{file: name, positions: make(map[string]position), broken: make(map[string]bool)}
	f := &File{path: name, folder: filepath.Dir(name)}
	d.value(root, reflect.ValueOf(f).Elem(), "", 0)
	if !d.exhausted {
		v := validator{decoder: &d}
		v.check(f)
	}
	if err := d.problems.err(); err != nil {
		return nil, err
	}
	f.positions = d.positions
	f.fillDefaults()
	return f, nil
}

// reason is the cause of a file error without the path, which the message names already.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
