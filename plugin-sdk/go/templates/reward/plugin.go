// A reward: 1 where the final answer of a completion is that of the reference.
package main

import (
	"strings"

	trainer "my-plugin/sdk"
)

const schema = `{"type": "object", "additionalProperties": false, "properties": {
  "unmarked": {"type": "number", "default": 1, "minimum": 0, "maximum": 1,
    "description": "score of a right answer that no #### marks"}}}`

var unmarked = 1.0

func init() {
	trainer.Register(trainer.Reward{
		Name:    "my-plugin",
		Version: "0.1.0",
		Summary: "1 where the final answer is that of the reference, else 0.",
		Schema:  schema,
		Columns: []trainer.Column{
			{Name: "completion", Kind: trainer.Text},
			{Name: "reference", Kind: trainer.Text, Optional: true},
		},
		Configure: func(options []byte, seed uint64) error {
			unmarked = trainer.OptionNumber(options, "unmarked", 1)
			return nil
		},
		Score: score,
	})
}

func main() {}

func score(row trainer.Row) trainer.Score {
	reference, _ := row.Text("reference")
	wanted, ok := answer(reference)
	if !ok {
		return trainer.Score{}
	}
	completion, _ := row.Text("completion")
	marked, value := 0.0, 0.0
	if strings.Contains(completion, "####") {
		marked = 1
	}
	if said, ok := answer(completion); ok && said == wanted {
		value = unmarked
		if marked == 1 {
			value = 1
		}
	}
	parts := []trainer.Part{{Name: "marked", Value: marked}}
	return trainer.Score{HasValue: true, Value: value, Parts: parts}
}

func digit(s string, at int) bool { return at < len(s) && s[at] >= '0' && s[at] <= '9' }

// numberEnd is the end of the number that begins at the digit at.
func numberEnd(s string, at int) int {
	for {
		for digit(s, at) {
			at++
		}
		group := at < len(s) && s[at] == ',' && digit(s, at+1) && digit(s, at+2) &&
			digit(s, at+3) && !digit(s, at+4)
		if !group {
			break
		}
		at += 4
	}
	if at < len(s) && s[at] == '.' && digit(s, at+1) {
		for at++; digit(s, at); {
			at++
		}
	}
	return at
}

// answer is the first number after the last ####, else the last number; in canonical form.
func answer(said string) (string, bool) {
	marker := strings.LastIndex(said, "####")
	if marker >= 0 {
		said = said[marker+4:]
	}
	number := ""
	for at := 0; at < len(said); {
		if !digit(said, at) {
			at++
			continue
		}
		begin := at
		at = numberEnd(said, at)
		if begin > 0 && said[begin-1] == '-' && !(begin > 1 && digit(said, begin-2)) {
			begin--
		}
		number = said[begin:at]
		if marker >= 0 {
			break
		}
	}
	return canonical(number), number != ""
}

// canonical is without separators and zeros that say nothing.
func canonical(number string) string {
	digits, negative := strings.CutPrefix(number, "-")
	whole, fraction, _ := strings.Cut(strings.ReplaceAll(digits, ",", ""), ".")
	whole, fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	if whole == "" {
		whole = "0"
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if negative && whole != "0" {
		return "-" + whole
	}
	return whole
}
