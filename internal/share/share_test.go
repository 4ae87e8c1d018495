package share

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShare_AllParts_AreTheWholeAndShareNothing(t *testing.T) {
	for parts := 1; parts <= 7; parts++ {
		tried := map[int]int{}
		for part := 1; part <= parts; part++ {
			s, err := Parse(fmt.Sprintf("%d/%d", part, parts))
			require.NoError(t, err)
			for i := range 23 {
				if s.Has(i) {
					tried[i]++
				}
			}
		}
		for i := range 23 {
			require.Equal(t, 1, tried[i])
		}
	}
}

func TestParse_WhatIsNoPart_IsRefused(t *testing.T) {
	for _, text := range []string{"0/4", "5/4", "1", "a/b", "1/2/3", "-1/4", "1/0"} {
		_, err := Parse(text)
		require.Error(t, err, text)
	}
	all, err := Parse("")
	require.NoError(t, err)
	require.True(t, all.Has(0) && all.Has(5))
	require.Equal(t, "all", all.String())
}

func TestShare_Halves_AreTriedInTurnAndHoldEverything(t *testing.T) {
	one, err := Parse("1/6")
	if err != nil {
		t.Fatal(err)
	}
	two, err := Parse("2/6")
	if err != nil {
		t.Fatal(err)
	}
	counts := [2]int{}
	for i := range 1000 {
		name := fmt.Sprint("TestCase", i)
		if one.HasHalf(name) == two.HasHalf(name) {
			t.Fatalf("%s is in both halves, or in none", name)
		}
		if one.HasHalf(name) {
			counts[0]++
		} else {
			counts[1]++
		}
		if !(Share{}).HasHalf(name) {
			t.Fatal("without a share all are tried")
		}
	}
	if min(counts[0], counts[1]) < 400 {
		t.Errorf("%v", counts)
	}
}
