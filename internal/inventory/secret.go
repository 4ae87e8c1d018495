package inventory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
)

// maxSecret bounds the file of a secret, in bytes.
const maxSecret = 64 << 10

// Resolve reads the secret where it is kept: on the worker, at the moment of use. env looks up an environment variable. The error
// says what is missing and never holds any part of the value.
func (s Secret) Resolve(file *File, env func(string) (string, bool)) ([]byte, error) {
	if s.Env != "" {
		value, ok := env(s.Env)
		if !ok || value == "" {
			return nil, fmt.Errorf("the environment variable %s is not set: set it for the worker", quote(s.Env))
		}
		return []byte(value), nil
	}
	data, err := readPrivate(file.ResolvePath(s.File), maxSecret)
	if err != nil {
		return nil, err
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if value == "" {
		return nil, fmt.Errorf("%s is empty: write the secret into it", quote(s.File))
	}
	return []byte(value), nil
}

// Secrets returns every reference to a secret that the cluster's section has, wherever it stands.
func (c *Cluster) Secrets() []*Secret {
	var out []*Secret
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if s, ok := v.Interface().(*Secret); ok && s != nil {
				out = append(out, s)
			} else if !ok && !v.IsNil() {
				look(v.Elem())
			}
		case reflect.Struct:
			for field, value := range v.Fields() {
				if field.IsExported() {
					look(value)
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				look(v.Index(i))
			}
		}
	}
	look(reflect.ValueOf(c))
	return out
}

// readPrivate reads a file that only its owner may read.
func readPrivate(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file: name a file", quotePath(path)) // and opening a pipe would wait for its writer
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by group or others (mode %04o): run chmod 600 on it", quotePath(path), mode)
	}
	return readFile(path, info, most)
}

func readFile(path string, info fs.FileInfo, most int64) ([]byte, error) {
	if info.Size() > most {
		return nil, fmt.Errorf("%s is larger than %d bytes: is this the right file?", quotePath(path), most)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fileError(path, err)
	}
	return data, nil
}

func fileError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no such file %s: write where it is on the worker", quotePath(path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be read by the worker's user: change its owner or mode", quotePath(path))
	}
	return fmt.Errorf("%s cannot be read: %v", quotePath(path), reason(err))
}

// quotePath is quote for a path, whose end says more than its beginning.
func quotePath(path string) string {
	const most = 120
	if len(path) > most {
		path = "..." + strings.ToValidUTF8(path[len(path)-most:], "")
	}
	return fmt.Sprintf("%+q", path)
}
