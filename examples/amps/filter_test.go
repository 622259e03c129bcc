package main

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFilter(t *testing.T) {
	body := []byte(`{"id":7,"name":"O'Hara","nested":{"price":1.5,"none":null},"big":12345678901234567,"yes":true}`)
	for text, matches := range map[string]bool{
		``:                                true,
		`1=1`:                             true,
		`1 = 2`:                           false,
		`/id = 7`:                         true,
		`/id==7`:                          true,
		`/id != 7`:                        false,
		`/id <> 8`:                        true,
		`/id<8 and /id>6`:                 true,
		`/id <= 7 AND /id >= 7`:           true,
		`/id < -1`:                        false,
		`/id > 10 OR /nested/price < 2`:   true,
		`NOT /id = 7`:                     false,
		`not (/id = 8 or /id = 9)`:        true,
		`/id = 8 OR /id = 7 AND 1 = 1`:    true, // AND binds more tightly
		`(/id = 7 OR /id = 8) AND 1 = 2`:  false,
		`/name = "O'Hara"`:                true,
		`/name = 'O''Hara'`:               false, // no escapes: refused below
		`'7' = /id`:                       false, // another kind
		`'7' != /id`:                      true,
		`/missing = 1`:                    false,
		`/missing != 1`:                   true,
		`/id/deeper = 1`:                  false,
		`/nested/none = 0`:                false,
		`/big = 12345678901234567`:        true,
		`/name > 'N'`:                     true,
		`/name = 'O' AND /id = 7 OR 1=1 `: true,
	} {
		f, err := compileFilter(text)
		if strings.Contains(text, `''`) {
			require.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, matches, f.matches(body), text)
	}
	f, err := compileFilter(`/id != 7`)
	require.NoError(t, err)
	require.True(t, f.matches([]byte(`no JSON`)), "a body that is no JSON has no fields")
}

func TestBadFilter(t *testing.T) {
	for _, text := range []string{
		`/id`, `/id =`, `= 7`, `/ = 1`, `id = 7`, `/id = 'open`, `/id = 7 AND`, `AND /id = 7`, `(/id = 7`, `/id = 7)`,
		`/id = 7 8`, `/id ! 7`, `/id BETWEEN 1 AND 2`, `/id IN (1, 2)`, `NOT`, `()`, `''`, `/a = ()`,
		strings.Repeat("(", maxFilter), strings.Repeat("NOT ", maxFilter/4), strings.Repeat("1=1 OR ", maxFilter) + "1=1",
	} {
		_, err := compileFilter(text)
		require.Equal(t, errFilter, err, text)
	}
}

// TestFilterOfAnyTokens requires that any text of a client is a filter or is refused.
func TestFilterOfAnyTokens(t *testing.T) {
	tokens := []string{"/id", "/", "7", "-", "'x'", "'", `"`, "(", ")", "=", "!", "<", ">", "and", "OR", "not", " ", "\x00", "é"}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		var text strings.Builder
		for range random.IntN(12) {
			text.WriteString(tokens[random.IntN(len(tokens))])
		}
		if f, err := compileFilter(text.String()); err == nil {
			f.matches([]byte(`{"id":7}`))
		} else {
			require.Equal(t, errFilter, err, "%q", text.String())
		}
	}
}
