package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// print writes a result to standard output: as text (made only when asked for), JSON or YAML.
func (c *cli) print(value any, text func() string) error {
	var out []byte
	var err error
	switch c.output {
	case "json":
		out, err = toJSON(value)
	case "yaml":
		out, err = toYAML(value)
	default:
		out = []byte(text())
	}
	if err != nil {
		return fmt.Errorf("the result cannot be written as %s: %w", c.output, err)
	}
	_, err = c.out.Write(out)
	return err
}

// toJSON is indented JSON in which characters that could surprise a terminal stand escaped.
func toJSON(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	// Outside of its strings JSON is ASCII, so that what is escaped here stands in a string.
	return escapeInvisible(b.Bytes(), func(r rune) string {
		if r > 0xffff {
			r -= 0x10000
			return fmt.Sprintf(`\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}), nil
}

// toYAML writes what toJSON would, as YAML with the same keys in the same order.
func toYAML(value any) ([]byte, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	node, err := yamlNode(d)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(node); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return escapeInvisible(b.Bytes(), func(r rune) string { return fmt.Sprintf(`\U%08x`, r) }), nil
}

// yamlNode reads the next JSON value.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		node := &yaml.Node{Kind: yaml.MappingNode}
		if t == '[' {
			node.Kind = yaml.SequenceNode
		}
		for d.More() {
			child, err := yamlNode(d)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, child)
		}
		if _, err := d.Token(); err != nil { // the closing delimiter
			return nil, err
		}
		if len(node.Content) == 0 {
			node.Style = yaml.FlowStyle
		}
		return node, nil
	case string:
		node := &yaml.Node{}
		node.SetString(t)
		if strings.ContainsFunc(t, func(r rune) bool { return !unicode.IsPrint(r) }) {
			node.Style = yaml.DoubleQuotedStyle // where every character can be escaped
		}
		return node, nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(t.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: t.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(t)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

func escapeInvisible(text []byte, escape func(rune) string) []byte {
	if bytes.IndexFunc(text, invisible) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		if invisible(r) {
			b.WriteString(escape(r))
			continue
		}
		b.WriteRune(r)
	}
	return b.Bytes()
}

func invisible(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }

// say writes a diagnostic line to standard error.
func (c *cli) say(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) }

func writeLines(w io.Writer, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// plural writes "1 node", "3 nodes".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
