package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	startMark = "<!-- report: "
	endMark   = "<!-- end of report: "
	closeMark = " -->"
)

// marked returns the name in a line that is a mark of that kind.
func marked(line, mark string) (name string, ok bool) {
	line = strings.TrimRight(line, " \t\r\n")
	if !strings.HasPrefix(line, mark) || !strings.HasSuffix(line, closeMark) {
		return "", false
	}
	return strings.TrimSuffix(strings.TrimPrefix(line, mark), closeMark), true
}

// section is the Markdown that -update puts in for a name, with the pictures in the folder dir.
func (r *report) section(name, dir string) (string, error) {
	var found []string
	for _, s := range r.sections {
		for _, p := range s.parts {
			if s.name == name || slices.Contains(p.names, name) {
				text := p.markdown(dir)
				if p.heading != "" && s.name == name {
					text = "### " + p.heading + "\n\n" + text
				}
				found = append(found, text)
			}
		}
	}
	if len(found) > 0 {
		return strings.Join(found, "\n"), nil
	}
	for _, n := range names {
		if name == n || strings.HasPrefix(name, n+"-") {
			return "", fmt.Errorf("the results have nothing for %s", name)
		}
	}
	return "", fmt.Errorf("%s is no section of the report: there are %s", name, strings.Join(names, ", "))
}

// update returns what becomes of file if the pictures are in dir.
func (r *report) update(file, dir string) ([]byte, error) {
	old, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	path, err := relative(file, dir)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	open, openLine, number, sections := "", 0, 0, 0
	for line := range strings.Lines(string(old)) {
		number++
		fail := func(format string, args ...any) ([]byte, error) {
			return nil, fmt.Errorf("%s:%d: %s", file, number, fmt.Sprintf(format, args...))
		}
		if name, ok := marked(line, startMark); ok {
			if open != "" {
				return fail("%s starts before the end of %s, of line %d", name, open, openLine)
			}
			text, err := r.section(name, path)
			if err != nil {
				return fail("%v", err)
			}
			open, openLine = name, number
			sections++
			end := "\n"
			if strings.HasSuffix(line, "\r\n") {
				end = "\r\n"
			}
			b.WriteString(strings.TrimRight(line, "\r\n") + strings.ReplaceAll("\n\n"+text+"\n", "\n", end))
			continue
		}
		if name, ok := marked(line, endMark); ok {
			if open == "" || name != open {
				return fail("the end of %s, which has not started", name)
			}
			open = ""
		}
		if open == "" {
			b.WriteString(line)
		}
	}
	if open != "" {
		return nil, fmt.Errorf("%s:%d: %s has no end", file, openLine, open)
	}
	if sections == 0 {
		return nil, fmt.Errorf("%s: there is no line %sNAME%s", file, startMark, closeMark)
	}
	return []byte(b.String()), nil
}

// relative is the path from the folder of file to dir, as in a link, with a slash behind it unless empty.
func relative(file, dir string) (string, error) {
	from, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return "", err
	}
	to, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	path, err := filepath.Rel(from, to)
	if err != nil {
		return "", fmt.Errorf("pictures in %s cannot be linked from %s: %w", dir, file, err)
	}
	if path == "." {
		return "", nil
	}
	return filepath.ToSlash(path) + "/", nil
}

// replace gives file a new content, all of it or nothing.
func replace(file string, content []byte) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && string(old) == string(content) {
		return nil
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".report-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails if it has been renamed, which is as it should be
	_, err = temp.Write(content)
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chmod(temp.Name(), info.Mode().Perm())
	}
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), file)
}
