package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// render has paint draw a picture, and makes of it one that follows the page's colours.
func render(height vg.Length, title, desc string, paint func(draw.Canvas)) ([]byte, error) {
	canvas := vgsvg.NewWith(vgsvg.UseWH(width, height))
	paint(draw.New(canvas))
	var drawing bytes.Buffer
	if _, err := canvas.WriteTo(&drawing); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %[1]d %.0[2]f" role="img">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n<desc>%s</desc>\n<style>\n%s</style>\n", escape(title), escape(desc), style())
	// The page may be dark where the reader's system is light: so the picture brings its ground along.
	fmt.Fprintf(&b, `<rect class="f%d" width="100%%" height="100%%"/>`+"\n", paper)
	if err := rewrite(&b, &drawing); err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrChart, title, err)
	}
	return b.Bytes(), nil
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

// rewrite copies what vgsvg has drawn, but for its root, with a class for each colour.
func rewrite(w *bytes.Buffer, drawing io.Reader) error {
	d := xml.NewDecoder(drawing)
	depth := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			w.WriteString("</svg>\n")
			return nil
		}
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth++; depth == 1 {
				continue // the root has been written
			}
			if err := open(w, t); err != nil {
				return err
			}
			switch t.Name.Local {
			case "g":
				w.WriteString(">\n")
			case "text":
				if err := fit(w, d, t); err != nil {
					return err
				}
			default:
				w.WriteByte('>')
			}
		case xml.EndElement:
			if depth--; depth > 0 {
				fmt.Fprintf(w, "</%s>\n", t.Name.Local)
			}
		}
	}
}

// open writes the start of an element, but for what ends it.
func open(w *bytes.Buffer, e xml.StartElement) error {
	fmt.Fprintf(w, "<%s", e.Name.Local)
	for _, a := range e.Attr {
		if a.Name.Local != "style" {
			fmt.Fprintf(w, ` %s="%s"`, a.Name.Local, escape(a.Value))
			continue
		}
		for property := range strings.SplitSeq(a.Value, ";") {
			name, value, _ := strings.Cut(property, ":")
			switch name {
			case "fill", "stroke":
				if value == "none" {
					continue
				}
				r, err := roleOf(value)
				if err != nil {
					return err
				}
				fmt.Fprintf(w, ` class="%c%d"`, name[0], r)
			case "stroke-width", "font-size", "font-weight":
				if value != "normal" {
					fmt.Fprintf(w, ` %s="%s"`, name, strings.TrimSuffix(value, "px"))
				}
			case "font-family", "font-variant", "font-style": // the style sheet's
			default:
				return fmt.Errorf("the drawing has a property %s", property)
			}
		}
	}
	return nil
}

// fit ends the start of the text e, and writes the text. Its length is the one that it was laid out with.
func fit(w *bytes.Buffer, d *xml.Decoder, e xml.StartElement) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	s, ok := token.(xml.CharData)
	if !ok {
		return errors.New("the drawing has a text without text")
	}
	sty := body()
	for _, a := range e.Attr {
		if a.Name.Local == "style" && strings.Contains(a.Value, "font-weight:bold") {
			sty = title()
		}
	}
	fmt.Fprintf(w, ` textLength="%.1f" lengthAdjust="spacingAndGlyphs">%s`, sty.Width(string(s)), escape(string(s)))
	return nil
}

// roleOf is the one that the colour stands for.
func roleOf(hex string) (role, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
	if err != nil || n == 0 || n >= uint64(firstSeries)+uint64(len(palette)) {
		return 0, fmt.Errorf("the drawing has a colour of its own, %s", hex)
	}
	return role(n), nil
}
